"""From a finished job to a better one: which rows to doubt, what more rows would bring, which hyperparameters, and
whether a prompt would have done. Proposals rest on the owner's own rows, and what they train is an ordinary job."""
