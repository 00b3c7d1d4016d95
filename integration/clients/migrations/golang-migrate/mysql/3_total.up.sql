CREATE VIEW total AS SELECT count(*) AS n FROM invoices WHERE paid;
