"""How the workers of one machine meet."""
