-- Run once by the PostgreSQL image, when its data folder is new.
CREATE DATABASE mlflow;
