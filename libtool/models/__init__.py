"""What a librarian remembers: tables, constraints, indexes, migrations. No rules live here."""
