"""What is connected to what: factories of Nipype graphs, and nothing else.

``base`` alone decides which stages a subject needs, ``ready`` which steps of the anatomy.
"""
