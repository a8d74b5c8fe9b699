"""Does alignment help, by a judge that no method was trained on? Win rates, the hacking alarm and the report."""
