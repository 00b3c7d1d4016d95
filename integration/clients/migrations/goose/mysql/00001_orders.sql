-- +goose Up
CREATE TABLE goose_orders (id bigint AUTO_INCREMENT PRIMARY KEY, customer varchar(100) NOT NULL);

-- +goose Down
DROP TABLE goose_orders;
