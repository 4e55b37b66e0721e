"""The demonstration.

`__main__` tells the story, `scenes` plays the agent, `audit` the auditor, `stage` runs the rest.
"""
