from moe_cute._cli import app

app()
