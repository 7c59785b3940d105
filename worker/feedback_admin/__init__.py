"""What `modelvigil feedback` does: finds incidents, sends feedback events, and lists what is in force.

Rule 1: a command looks before it sends. What names no known incident, or more than one, is not sent.
Rule 2: nothing here belongs to a consumer group, and nothing is committed.
"""
