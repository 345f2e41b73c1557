"""What piRL needs of a policy, executable; and X-VLA behind it."""
