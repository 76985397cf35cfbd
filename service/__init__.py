"""How a request becomes an answer: frontends translate, core decides, runtime does, telemetry observes."""
