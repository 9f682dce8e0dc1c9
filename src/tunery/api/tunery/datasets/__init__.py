"""Before a job: what a file holds, what is wrong with it, what a job on it will come to."""
