ALTER TABLE invoices ADD COLUMN paid boolean NOT NULL DEFAULT false;
INSERT INTO invoices (customer, paid) VALUES ('first', true);
