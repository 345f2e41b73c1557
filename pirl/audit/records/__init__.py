"""Every raw record of a gate: one frozen dataclass each, its unit and meaning beside every field.

A step fills them, a criterion reads their attributes, `docs/evidence.md` is written from them. Read
`pirl.audit.records.files` for where each one lies.
"""
