"""Speed, as ratios measured in one run against what else there is. Never a test: machines differ."""
