"""The science: arrays in, arrays out.

Nothing in here knows a file, Nipype or BIDS. SI units inside (seconds, metres, hertz, radians);
millimetres and mmol/L only where a name says so.
"""
