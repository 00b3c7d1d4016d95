CREATE TABLE invoices (id bigserial PRIMARY KEY, customer varchar(100) NOT NULL);
