"""The dashboards, a module each, and the parts that they are made of."""
