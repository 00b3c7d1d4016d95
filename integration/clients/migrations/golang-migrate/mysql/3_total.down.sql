DROP VIEW total;
