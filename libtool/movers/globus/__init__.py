"""The carrier ``globus``: one task of the Globus Transfer service per queue item.

``mover`` is the carrier, ``codes`` says what Globus's words mean, ``access`` is the way to the service with every
error made one of ours, ``identity`` is who this node is there. Only the last two import the SDK, when they are used.
"""
