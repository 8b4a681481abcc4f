"""Loading models, and the tiny and planted models that the tests stand on."""
