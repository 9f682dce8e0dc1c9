"""What a training file is: parse, validate, render, count, estimate, advise, prepare. Knows no torch."""
