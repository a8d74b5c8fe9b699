-- A database each: MLflow and Airflow keep the version of their tables under the same name.
CREATE DATABASE mlflow;
CREATE DATABASE airflow;
