from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from catalog.models import Heartbeat, Visit
from shop.environment import REVISION


def front_page(request: HttpRequest) -> HttpResponse:
    Visit.objects.create()
    shown = {"revision": REVISION, "visits": Visit.objects.count(), "heartbeats": Heartbeat.objects.order_by("worker")}
    return render(request, "catalog/front_page.html", shown)


def health(request: HttpRequest) -> HttpResponse:
    """The revision of this process. It asks no database: a host must not fail for a neighbour's fault."""
    return HttpResponse(REVISION + "\n", content_type="text/plain")
