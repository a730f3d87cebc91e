"""The Kubernetes API as the port ``Cluster``: raw JSON over ``kubernetes.aio``'s connection, no generated models."""
