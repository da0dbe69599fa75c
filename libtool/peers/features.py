"""What this libtool can do beyond the stock protocol, and how it says so. Imports nothing: every answer carries it."""

#: Told in every answer under ``HEADER``; stock peers ignore it.
HEADER = "Libtool-Features"
#: Completion, progress and refusals travel in batches, under ``/api/v2/libtool/clone/``.
BATCH = "clone-batch"
#: Catalogues can be compared, under ``/api/v2/libtool/catalogue/``.
COMPARE = "catalogue-compare"
#: ``/api/v2/libtool/ping/back`` says whether the caller can be reached.
PING_BACK = "ping-back"
#: ``/api/v2/libtool/catalogue/validate`` has many copies read at once, and says when each was.
VALIDATE = "catalogue-validate"
FEATURES = f"{BATCH} {COMPARE} {PING_BACK} {VALIDATE}"
