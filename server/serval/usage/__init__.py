"""Usage by key, model and hour, counted exactly once.

Each request is counted when its answer ends, before the end is sent to the client: a client that has received
a whole answer finds it in the ledger. Counting adds to a batch in memory and waits for nothing.

memory     A process adds its requests up by key, model and hour in a batch. Every second the batch gets its
           number and is written to the database; requests that end meanwhile go to the next batch.
database   One transaction adds the batch's rows and sets the process's last number in `usage_writers`. A
           batch whose number is not larger than that changes nothing. So a batch is written again whenever
           it is unknown if it was, for one after a connection that broke during the commit.
journal    Each request is also a line in a file of the batch, which is removed once the batch is in the
           database. The process holds a lock on the file that the kernel releases when the process ends,
           however that happens. Any process with the same folder then writes the batches that are left, under
           the names and numbers that they had.

Processes share nothing else, so it does not matter how many workers and gateways there are, and Redis has no
part in it. The bounds:

process killed     Requests that were running then are not counted. With a journal everything else is; without
                   one, what ended in the last second, or since the database went away, is lost as well.
machine lost       As without a journal: its lines are not synchronised to the disk, which would cost each
                   request milliseconds.
database away      The next batch goes on adding up, in at most `MAX_ROWS` rows. Requests that would need more
                   are left out, and a metric and a log line say how many.
"""
