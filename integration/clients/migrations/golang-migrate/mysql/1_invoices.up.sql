CREATE TABLE invoices (id bigint AUTO_INCREMENT PRIMARY KEY, customer varchar(100) NOT NULL);
