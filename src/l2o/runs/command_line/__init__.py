"""What a user gives to the programs: command lines and configurations, checked before anything is built from them."""
