"""What runs used and what that cost: prices, charges, budgets of teams, and advice."""
