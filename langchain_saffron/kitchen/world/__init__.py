"""What is said in the kitchen: dishes, hazards, small talk, tools, documents and passages."""
