"""`clipcap-evaluate`: figures of captions against references, with what they are worth."""
