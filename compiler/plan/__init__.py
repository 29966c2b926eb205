"""Plan: where everything lies. Decisions as frozen data; no graph is edited here."""
