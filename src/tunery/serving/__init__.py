"""The engine: one set of base weights, many adapters, a prefix cache and an HTTP face that speaks OpenAI's dialect.

Whatever decides (scheduler, blocks, slots, stop strings) is plain Python and imports no torch; whatever computes
(`forward/`, `sampler`) knows nothing of requests or HTTP.
"""
