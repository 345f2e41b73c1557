"""LeRobot's X-VLA behind the flow-policy contract; nothing outside this package knows a field of it.

Read `kind` (what a config is judged by and who builds), then `policy`.
"""
