"""Giving a policy away: a folder that the hub takes, with a model card made from records. Read `facts` next."""
