"""Which request may go to the engine when: slots, a queue that is fair between keys, classes, shedding."""
