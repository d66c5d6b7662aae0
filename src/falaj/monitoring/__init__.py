"""What the prediction log tells: drift of what a model sees and says, and how right it
turned out to be once the labels are known.

Look first at ``drift.py``. Nothing here is on the path of a request.
"""
