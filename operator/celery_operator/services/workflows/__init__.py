"""The runs of workflows: what is published, followed, retried and reported, from first sight to the end."""
