"""The whole pipeline on one screen: real data, real models, a real Kafka, a worker as its own process, one fault.

Nothing of the worker depends on this package. It is also an example of a client: it writes predictions and reads alerts
and metrics as any program would.
"""
