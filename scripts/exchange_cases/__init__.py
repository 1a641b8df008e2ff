"""Parts of bench_exchange.py."""
