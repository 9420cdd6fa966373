"""What trains the committed priors: `python -m pdm.train NAME`."""
