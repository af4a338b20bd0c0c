"""Models: loading, the policy and reward models over their trie caches, and what they cost."""
