"""What a user touches: command line, settings, BIDS in, BIDS out, reports, the group level.

Every BIDS name that is written is given in ``names``; every key that is read in ``metadata``.
"""
