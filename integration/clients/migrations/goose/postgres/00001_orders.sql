-- +goose Up
CREATE TABLE goose_orders (id bigserial PRIMARY KEY, customer varchar(100) NOT NULL);

-- +goose Down
DROP TABLE goose_orders;
