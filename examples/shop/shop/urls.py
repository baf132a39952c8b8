from django.urls import path

from catalog import views

urlpatterns = [path("", views.front_page), path("healthz", views.health)]
