"""The main job on two small policies that come along: what `policyctl demo` runs."""
