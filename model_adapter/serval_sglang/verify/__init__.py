"""Does a running engine compute what the reference model defines? For ``serval checkpoint verify``.

``engine`` starts and asks the real engine, ``cases`` says what to ask, ``comparison`` measures how far the
answers are from the reference, ``verification`` puts these together and judges.
"""
