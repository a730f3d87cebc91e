"""The command ``celery-patterns``: what is wrong with this broker, which messages died, which circuits are open.

It uses argparse and plain text, so that it is in every worker's image at no cost.
"""
