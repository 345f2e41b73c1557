"""What piRL needs of a policy, as a protocol and as a program; and who builds one."""
