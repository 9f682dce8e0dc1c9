"""Chat and completions: resolves the model's name, hands the request to the engine, meters and stores the answer."""
