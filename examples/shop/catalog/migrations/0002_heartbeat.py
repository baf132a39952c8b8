from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0001_visit")]
    operations = [
        migrations.CreateModel(
            name="Heartbeat",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("worker", models.CharField(max_length=200, unique=True)),
                ("revision", models.CharField(max_length=40)),
                ("at", models.DateTimeField(auto_now=True)),
            ],
        ),
    ]
