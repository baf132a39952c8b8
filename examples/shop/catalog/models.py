from django.db import models


class Visit(models.Model):
    """Somebody looked at the front page."""

    at = models.DateTimeField(auto_now_add=True)


class Heartbeat(models.Model):
    """The last sign of life of one worker, by its place on its host."""

    worker = models.CharField(max_length=200, unique=True)
    revision = models.CharField(max_length=40)
    at = models.DateTimeField(auto_now=True)
