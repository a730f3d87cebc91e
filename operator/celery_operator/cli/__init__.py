"""What people type: ``celery-operator run``, ``validate``, ``example`` and ``version``."""
